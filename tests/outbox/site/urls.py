from django.urls import path
from site_app import views

urlpatterns = [
    path(view.__name__, view)
    for view in (views.ping, views.order, views.aorder, views.direct, views.mass, views.reset, views.write)
]
